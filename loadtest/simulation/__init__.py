"""The engine in simulated time: octavo's scheduler and cache over a device that is a formula."""
