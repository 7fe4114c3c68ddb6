"""gunicorn for filesproxy: `gunicorn -c gunicorn.conf.py`.

The same without this file: `gunicorn -c python:filesproxy.serving.gunicorn`. That module explains each setting.
Settings of your own go below, such as `workers = 4`.
"""

from __future__ import annotations

from filesproxy.serving.gunicorn import *  # noqa: F403
