"""Runs a preparation job: units, shards, restart."""
