"""``python -m tests.inference.killed_follow WHERE ARGUMENT...``: a run of ``counterview follow`` that kills itself."""

import os
import signal
import sys

from counterview.cli.main import main
from counterview.inference import every_frame, follow_journal, follow_output, follow_run, loading
from tests.inference.coloured_videos import ColourPredictor


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def after(function, calls):
    left = [calls]

    def called(*arguments, **options):
        result = function(*arguments, **options)
        left[0] -= 1
        if left[0] == 0:
            kill()
        return result

    return called


def cut_line(journal, step):
    """A step of which half a line reaches the disk."""
    handle = journal._opened()
    handle.write(b'{"time_s":')
    handle.flush()
    kill()


if __name__ == "__main__":
    where, *arguments = sys.argv[1:]
    loading.load = lambda *_, **__: ColourPredictor()
    journal = follow_journal.FollowJournal
    if where == "unsaved":  # no state yet: everything is followed anew
        journal.append = after(journal.append, 3)
    elif where == "saved":
        follow_run.SAVE_EVERY_S = 0.0
        journal.append = after(journal.append, 6)  # one step behind the state
    elif where == "torn":
        follow_run.SAVE_EVERY_S, done = 0.0, journal.append
        journal.append = lambda self, step: done(self, step) if self._done < 4 else cut_line(self, step)
    elif where == "smoothing":
        follow_journal.step_to_json = after(follow_journal.step_to_json, 15)  # 9 steps, then results
    elif where == "every-frame":
        every_frame.step_to_json = after(every_frame.step_to_json, 27)
    elif where == "drawing":
        follow_output.TrackWriter.add = after(follow_output.TrackWriter.add, 3)
    sys.exit(main(["follow", *arguments]))
