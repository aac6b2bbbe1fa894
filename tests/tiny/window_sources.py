"""The tracks of a data set of discs, in both directions."""

from counterview.data.clips import clip_sources


def sources_of(dataset):
    return [
        source
        for direction in ("ego2exo", "exo2ego")
        for source in clip_sources(dataset, direction, length=1, targets="annotated")
    ]
