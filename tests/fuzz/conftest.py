"""Two profiles of hypothesis: a few fixed examples in the suite; many random ones under `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", derandomize=True, max_examples=20, **COMMON)
settings.register_profile("fuzz", max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")), print_blob=True, **COMMON)
settings.load_profile("fuzz" if "FUZZ_EXAMPLES" in os.environ else "suite")
