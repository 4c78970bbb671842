"""The CPU engine on OpenVINO.

`import openvino` imports `openvino.tools.ovc`, which reports to Google Analytics from a forked
child and writes an id into `~/intel`. Where the telemetry package can't be imported, OpenVINO uses
a stub that does nothing. All OpenVINO imports go through this package, which blocks the telemetry
package first.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python says: not there
