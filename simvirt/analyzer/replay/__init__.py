"""Witnesses run again on another machine: a bootable image that makes both runs, and what it reports, read back.

::

    runner/       the program in the image: a boot sector, and what makes the runs (with its source)
    boot_image    witnesses to an image
    report        what the image prints, and whether it agrees with what was observed here
"""
