"""Files for engines of others: converted in a child process, made repeatable, measured, proven again."""
