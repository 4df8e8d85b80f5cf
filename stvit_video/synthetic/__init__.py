"""Generated videos and images; used by tools, tests and benchmarks, never by the package itself."""
