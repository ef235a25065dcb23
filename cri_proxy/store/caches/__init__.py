"""Binary caches: where store paths come from.

cache      one binary cache: a directory or a site
buckets    binary caches in S3 buckets
sigv4      AWS Signature Version 4 for a GET without a body
locations  binary caches of one realization, beside the configured ones
failover   several binary caches as one
fetcher    many small files at a time, by coroutines
"""
