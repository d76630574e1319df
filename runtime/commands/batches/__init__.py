"""Files of many requests in OpenAI's batch form, and their answers."""
