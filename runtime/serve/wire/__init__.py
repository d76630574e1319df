"""OpenAI's HTTP interface as data: requests become ours, answers become its objects and events."""
