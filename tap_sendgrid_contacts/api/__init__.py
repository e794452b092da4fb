"""SendGrid's API and its storage: requests, retries, export jobs, downloads."""
