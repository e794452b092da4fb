"""Singer tap for SendGrid contacts."""
