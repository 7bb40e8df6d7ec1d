"""How a hard example may leave its device: by consent, redacted, and written down."""
