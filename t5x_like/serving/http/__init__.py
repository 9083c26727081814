"""The HTTP side of serving: OpenAI's protocol (`protocol`, `answers`), what answers it (`app`, `endpoints`), and the `server`."""
