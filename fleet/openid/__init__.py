"""Sign-in by an OpenID Connect provider: code with PKCE, checked tokens, and roles from groups."""
