"""The PyTorch twin: a second, independent MRD that the tests compare against.

Written from the MRD paper's equations and from the public facts about
OpenShape's PointPatchTransformer, never from the JAX code: agreement between
the two is evidence only as long as neither was derived from the other. So a
disagreement is settled by the equations, and never by copying one side into
the other.

Plain loops and ragged indexing are used throughout, because here being
obviously right matters and speed does not. Equation numbers are the paper's.
Everything runs in float32 and float64.
"""
