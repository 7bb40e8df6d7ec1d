"""Sign-in by an OpenID Connect provider: code with PKCE, checked tokens, and roles from groups.

Not here: sessions and pages: it says who somebody is and which role that has.
"""
