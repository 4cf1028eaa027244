"""Measures a head on benchmarks, the way that papers do, and keeps what each phrase scored."""
