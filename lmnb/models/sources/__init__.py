"""Where models come from. Every source is an async generator of download events.

Closing the generator cancels the download; failing is raising a `DownloadFailed` (or another
`LmnbError`). A model file appears under its name only when it is whole and checked.
"""
