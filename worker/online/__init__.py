"""The online store: what each machine was like at its last committed event, for other services.

:mod:`machine` is the document of one machine, :mod:`store` what every store can do, and
:mod:`memory` and :mod:`redis_store` are the two there are.
"""
