"""Scripts that run where a converter or an engine is, which may be another environment than ours."""
