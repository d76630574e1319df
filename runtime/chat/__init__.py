"""Messages to text: conversation, prompt building, tools, reasoning, streams."""
