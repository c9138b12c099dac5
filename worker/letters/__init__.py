"""Dead letters and late events for people: read, explained, and published again after a fix.

Who does what::

    records   reads topics from a place to their present end, and single records
    letter    one dead letter or late event, or what somebody else wrote there
    search    which letters a person means, and counts over them
    replays   which letters were published to the input again (topic ``replays``)
    replay    publishing them: letter and mark in one transaction

Reads no consumer group and commits no offsets: looking changes nothing.
"""
