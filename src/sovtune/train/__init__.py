"""The training room: settings, engine, loss, attention."""
