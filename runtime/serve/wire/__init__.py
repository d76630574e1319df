"""OpenAI's HTTP interface as data: from requests to messages and options, from answers to its objects and events."""
