"""What people and programs are shown of an analysis.

::

    tally      counts by group, and critical forms by mnemonic: what all the reports below print
    as_json    one object, with a schema
    html       a page, and what Jupyter shows
    plot       classes against groups, as a picture
"""
