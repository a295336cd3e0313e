"""A clock that is set back by a year, for all that a process calls."""

import shutil
import subprocess
import sys
import time

import pytest
import runs

# The kernel's clock is the machine's; this is the C library's.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long back(void) {
  return access(getenv("BACK_WHEN"), F_OK) ? 0 : 365L * 86400;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, __func__);
  int failed = real(clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
    now->tv_sec -= back();
  return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
  int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, __func__);
  int failed = real(now, zone);
  now->tv_sec -= back();
  return failed;
}

time_t time(time_t *now) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  if (now) *now = time.tv_sec;
  return time.tv_sec;
}
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_saves_go_on(tmp_path):
  source, shim = tmp_path / "shim.c", tmp_path / "shim.so"
  source.write_text(SHIM)
  build = ["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"]
  subprocess.run(build, check=True)
  folder, now = tmp_path / "checkpoints", tmp_path / "now"

  def python(*arguments: str) -> subprocess.Popen:
    return runs.spawn(
      *(sys.executable, *arguments),
      PYTHONPATH=str(runs.REPOSITORY),
      JAX_PLATFORMS="cpu",
      LD_PRELOAD=str(shim),
      BACK_WHEN=str(now),
    )

  def saving(steps: int) -> subprocess.Popen:
    return python("-m", "tests.saving", str(folder), str(steps), "1")

  process = saving(12)
  runs.wait_until(process, (folder / "3").exists)
  now.touch()
  runs.finish(process)
  for code in (
    "import datetime; print(datetime.date.today().year)",
    "import time; print(time.gmtime().tm_year)",
  ):
    year, _ = python("-c", code).communicate()
    assert int(year) == time.gmtime().tm_year - 1
  process = saving(15)
  assert "from 12\n" in process.communicate()[0]
  assert sorted(path.name for path in folder.iterdir()) == ["14", "15"]
