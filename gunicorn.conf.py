"""gunicorn for filesproxy: `gunicorn -c gunicorn.conf.py`.

The same without this file: `gunicorn -c python:filesproxy.serving.gunicorn`. That module explains each setting.

Settings of your own go below the import, such as `workers = 4`. The limits that the hooks read belong to the
module: `import filesproxy.serving.gunicorn as served`, then `served.CLIENT_IDLE_SECONDS = 60`.
"""

from __future__ import annotations

from filesproxy.serving.gunicorn import *  # noqa: F403
