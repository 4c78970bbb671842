"""Routes for operators: fleet, cache and autoscaler, as `embedfleet status` and the pages ask."""
