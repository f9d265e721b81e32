"""How a profile looks to a person: what guest and VMM took, then by function, by exit site, and the distances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.layout import labelled, table
from simvirt.observe.numbers import counted, share
from simvirt.observe.profile.exit_distances import CLUSTER_REACH
from simvirt.observe.profile.profile import Profile
from simvirt.observe.show import outcome_text, show_counts
from simvirt.observe.showable import renders

if TYPE_CHECKING:
    from rich.console import RenderableType

    from simvirt.observe.profile.exit_distances import ExitDistances

_FUNCTIONS_SHOWN: Final = 20
_SITES_SHOWN: Final = 20
_BAR: Final = 40


@renders(Profile)
def show_profile(profile: Profile) -> RenderableType:
    """A profile: totals and four tables."""
    from rich.console import Group
    from rich.text import Text

    run = profile.run
    parts: list[RenderableType] = [
        Text(f"{run.guest} under {run.strategy}: {outcome_text(run)}", style="bold"),
        _totals(profile),
        Text(),
        _functions(profile),
    ]
    if run.counted.vm_exits:
        parts += [Text(), show_counts(profile.reasons), Text(), _sites(profile), Text(), _distances(profile.distances)]
    return Group(*parts)


def _totals(profile: Profile) -> RenderableType:
    from rich.text import Text

    run = profile.run
    numbers, total = run.counted, max(run.modelled.cycles, 1)
    asleep = f", asleep for {profile.asleep_ns / 1e9:.3f} s of its own time" if profile.asleep_ns else ""
    caveat = [("stacks", Text(profile.caveat))] if profile.caveat else []
    return labelled(
        [
            (
                "counted",
                Text(
                    f"{counted(numbers.instructions, 'instruction')}, {counted(numbers.interventions, 'exit')}, "
                    f"{counted(profile.samples, 'sample')}{asleep}"
                ),
            ),
            (
                "modelled",
                Text(
                    f"guest {profile.guest_cycles:,} cycles ({share(profile.guest_cycles / total)}), VMM "
                    f"{profile.vmm_cycles:,} ({share(profile.vmm_cycles / total)}) on {run.modelled.preset}"
                ),
            ),
            ("", Text(run.modelled.source, style="dim")),
            ("measured", Text(f"{run.measured.host_seconds:.3f} s on this host, the profiler's own work in it")),
            *caveat,
        ]
    )


def _functions(profile: Profile) -> RenderableType:
    from rich.text import Text

    total = max(profile.run.modelled.cycles, 1)
    drawn = table("Functions")
    drawn.add_column("function", overflow="fold")
    drawn.add_column("privilege")
    for title in ("instructions", "exits", "cycles in guest", "in VMM", "share"):
        drawn.add_column(title, justify="right")
    for each in profile.functions[:_FUNCTIONS_SHOWN]:
        drawn.add_row(
            Text(each.name),
            each.privilege,
            f"{each.instructions:,}",
            f"{each.exits:,}",
            f"{each.instructions * profile.instruction_cycles:,}",
            f"{each.exit_cycles:,}",
            share(profile.cycles_of(each) / total),
        )
    if len(profile.functions) > _FUNCTIONS_SHOWN:
        drawn.caption = f"and {counted(len(profile.functions) - _FUNCTIONS_SHOWN, 'function')} more"
    return drawn


def _sites(profile: Profile) -> RenderableType:
    from rich.text import Text

    total = max(profile.vmm_cycles, 1)
    drawn = table("Exit sites")
    drawn.add_column("site", overflow="fold")
    drawn.add_column("instruction", overflow="fold")
    drawn.add_column("exit reason")
    for title in ("exits", "cycles", "of the VMM's"):
        drawn.add_column(title, justify="right")
    for site in profile.sites[:_SITES_SHOWN]:
        drawn.add_row(
            Text(site.place.name),
            Text(site.place.text),
            site.reason,
            f"{site.exits:,}",
            f"{site.exit_cycles:,}",
            share(site.exit_cycles / total),
        )
    if len(profile.sites) > _SITES_SHOWN:
        drawn.caption = f"and {counted(len(profile.sites) - _SITES_SHOWN, 'site')} more"
    return drawn


def _distances(distances: ExitDistances) -> RenderableType:
    buckets = distances.buckets()
    most = max((bucket.exits for bucket in buckets), default=1)
    drawn = table("Guest instructions from one exit to the next")
    drawn.add_column("distance", justify="right")
    drawn.add_column("exits", justify="right")
    drawn.add_column("share", justify="right")
    drawn.add_column("up to here", justify="right")
    drawn.add_column("")
    seen = 0
    for bucket in buckets:
        seen += bucket.exits
        drawn.add_row(
            str(bucket),
            f"{bucket.exits:,}",
            share(bucket.exits / distances.total),
            share(seen / distances.total),
            "█" * round(_BAR * bucket.exits / most),
        )
    drawn.caption = (
        f"{share(distances.clustered)} within {CLUSTER_REACH} instructions of the exit before: a VMM that handles "
        "clusters (Agesen et al. 2012) could spare those"
    )
    return drawn
