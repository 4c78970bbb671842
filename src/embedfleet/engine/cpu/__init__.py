"""The engine for processors that computes with OpenVINO.

`import openvino` brings `openvino.tools.ovc`, whose import reports to Google Analytics from a
forked child and writes an identity into `~/intel`. Where the package that does so can't be
imported, OpenVINO takes a stub of its own that does nothing. All that imports OpenVINO here is
imported through this package, so that it is made unimportable in time.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python says: not there
