"""Guests: what runs on the PC or in a VM. Images and their loaders, the catalogue, and the tools to build one's own.

The names that the rest of the project uses:

* :func:`~simvirt.guests.resolve.resolve`: a catalogue name or a path, to a :class:`~simvirt.guests.image.GuestImage`;
* :func:`~simvirt.guests.load.load`: an image into memory, to the :class:`~simvirt.guests.image.BootState` it starts in;
* :mod:`simvirt.guests.catalogue`: the guests that ship with simvirt, and what each must print;
* :mod:`simvirt.guests.build` and :mod:`simvirt.guests.template`: from source to image.
"""

from __future__ import annotations
