"""What happens in a take: which thing is picked up when, where it goes, and where hands and head are at any time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from counterview.errors import ConfigError
from counterview.tabletop.config import TabletopConfig
from counterview.tabletop.objects.shapes import Pose, rotation_matrix
from counterview.tabletop.scene.away import Away, draw_away
from counterview.tabletop.scene.grasp import Grasp, box_distance, grasps, relaxed
from counterview.tabletop.scene.hands import PersonPose, elbow_of, reach_limit
from counterview.tabletop.scene.layout import (
    Footprint,
    Placement,
    TabletopScene,
    fits_on_table,
    footprint_of,
    footprints_touch,
)
from counterview.tabletop.scene.motion import ease, facing, travel

__all__ = ["Action", "Story", "plan"]


@dataclass(frozen=True)
class Action:
    """One thing picked up and put down elsewhere.

    The phases are: reach, close, lift, carry (by way of ``via``, where the person turns it and looks at it), lower,
    open, withdraw.

    Attributes:
        start_s: when it begins, seconds into the take.
        times_s: ends of the seven phases, seconds from ``start_s``.
        thing: index of the thing.
        source: where it is picked up.
        goal: where it is put down.
        via: ``(3,)`` metres, where the way bends.
        via_yaw: rotation about z on the way there, radians.
        tilt: rotation about the thing's own x axis there, radians.
        lift_m: height at which it is carried.
        hands: one grasp, or one for each hand.
        clear_m: height that the hand keeps on its way to the thing, and on its way back.
    """

    start_s: float
    times_s: tuple[float, ...]
    thing: int
    source: Placement
    goal: Placement
    via: np.ndarray
    via_yaw: float
    tilt: float
    lift_m: float
    hands: tuple[Grasp, ...]
    clear_m: tuple[float, float]

    @property
    def end_s(self) -> float:
        """When the hand is back, seconds into the take."""
        return self.start_s + self.times_s[-1]

    def thing_pose(self, t: float) -> Pose:
        """Pose of the thing ``t`` seconds into the take, world from thing."""
        s = t - self.start_s
        _, close, lift, carry, lower, _, _ = self.times_s
        a, b = self.source, self.goal
        rise = ease((s - close) / (lift - close))
        sink = ease((s - carry) / (lower - carry))
        go = (s - lift) / (carry - lift)
        first, second = ease(go / 0.42), ease((go - 0.58) / 0.42)
        start, end = np.array([a.x, a.y]), np.array([b.x, b.y])
        xy = start + (self.via[:2] - start) * first + (end - self.via[:2]) * second
        yaw = a.yaw + self.via_yaw * first + (b.yaw - a.yaw - self.via_yaw) * second
        high = self.lift_m + (self.via[2] - self.lift_m) * first * (1 - second)
        ground = a.z + (b.z - a.z) * second
        z = ground + (high - 0.0) * min(rise, 1 - sink)
        lean = self.tilt * first * (1 - second)
        return rotation_matrix((0, 0, 1), yaw) @ rotation_matrix((1, 0, 0), lean), np.array([xy[0], xy[1], z])

    def wrist(self, grasp: Grasp, home: Pose, t: float) -> tuple[Pose, float]:
        """Pose of a wrist, world from hand, and how far the hand is closed (0 to 1).

        Args:
            grasp: one of ``hands``.
            home: where the wrist rests.
            t: seconds into the take.
        """
        s = t - self.start_s
        reach, close, _, _, lower, release, back = self.times_s
        held = self.source.pose()
        local = (held[0].T @ grasp.wrist[0], held[0].T @ (grasp.wrist[1] - held[1]))
        if s < reach:
            goal = (grasp.wrist[0], grasp.wrist[1] + grasp.retreat)
            return travel(home, goal, s / reach, self.clear_m[0]), 0.0
        if s < close:
            u = ease((s - reach) / (close - reach) / 0.75)
            shut = ease(((s - reach) / (close - reach) - 0.6) / 0.4)
            return (grasp.wrist[0], grasp.wrist[1] + grasp.retreat * (1 - u)), shut
        rotation, at = self.thing_pose(min(t, self.start_s + lower))
        wrist = (rotation @ local[0], at + rotation @ local[1])
        if s <= lower:
            return wrist, 1.0
        swing = wrist[0] @ grasp.wrist[0].T @ grasp.retreat
        if s < release:
            u = (s - lower) / (release - lower)
            return (wrist[0], wrist[1] + swing * ease((u - 0.25) / 0.75)), 1 - ease(u / 0.4)
        return travel((wrist[0], wrist[1] + swing), home, (s - release) / (back - release), self.clear_m[1]), 0.0


class Story:
    """The script of a take: all that moves, evaluated at any time.

    Args:
        scene: what stands where at first.
        actions: in order of time, never overlapping.
        gaze: key frames of where the head points: seconds, and a point ``(3,)`` in metres.
        seat: ``(3,)`` metres, middle of the shoulders when upright.
        homes: the hands (right, left) at rest.
        sway: ``(3, 3)``; amplitude (metres), angular frequency and phase of the head's motion along x, y and z.
        away: when the person looks away from the table, and where.
    """

    def __init__(
        self,
        scene: TabletopScene,
        actions: list[Action],
        gaze: list[tuple[float, np.ndarray]],
        seat: np.ndarray,
        homes: tuple[Grasp, Grasp],
        sway: np.ndarray,
        away: Away | None = None,
    ) -> None:
        self.scene, self.actions, self.away = scene, actions, away
        self.seat, self._gaze, self._homes, self._sway = seat, gaze, homes, sway

    def things(self, t: float) -> list[Pose]:
        """World poses of the things ``t`` seconds into the take, in their order."""
        out = [p.pose() for p in self.scene.placements]
        for action in self.actions:
            if t >= action.start_s:
                out[action.thing] = action.thing_pose(t)
        return out

    def person(self, t: float) -> PersonPose:
        """Pose of the person ``t`` seconds into the take."""
        wrists, angles, opposed = [], [], []
        for home in self._homes:
            wrist, joint, thumb = home.wrist, home.angles, home.opposed
            for action in self.actions:
                for grasp in action.hands:
                    if grasp.hand == home.hand and action.start_s <= t < action.end_s:
                        wrist, shut = action.wrist(grasp, home.wrist, t)
                        near = ease(2.5 * min(t - action.start_s, action.end_s - t))
                        loose = home.angles + (np.minimum(grasp.angles, home.angles * 0.8) - home.angles) * near
                        joint = loose + (grasp.angles - loose) * shut
                        thumb = home.opposed + (grasp.opposed - home.opposed) * near
            wrists.append(wrist)
            angles.append(joint)
            opposed.append(float(thumb))
        shoulders, lean = shoulders_for(self.seat, [w[1] for w in wrists])
        wave = np.sin(self._sway[:, 1] * t + self._sway[:, 2]) * self._sway[:, 0]
        hips = self.seat + np.array([0, -0.03, -0.5])
        spine = (self.seat + lean - hips) / np.linalg.norm(self.seat + lean - hips)
        head = self.seat + lean + spine * 0.24 + np.array([0, 0.10, 0.0]) + wave
        target = self._look(t)
        forward = target - head
        forward /= np.linalg.norm(forward)
        if self.away is not None:
            forward = self.away.turned(forward, t)
        rotation = facing(forward)
        return PersonPose(
            (rotation, head),
            (wrists[0], wrists[1]),
            (angles[0], angles[1]),
            (opposed[0], opposed[1]),
            (shoulders[0], shoulders[1]),
            hips,
        )

    def _look(self, t: float) -> np.ndarray:
        times = [g[0] for g in self._gaze]
        k = int(np.clip(np.searchsorted(times, t) - 1, 0, len(times) - 2))
        a, b = self._gaze[k], self._gaze[k + 1]
        return a[1] + (b[1] - a[1]) * ease((t - a[0]) / max(b[0] - a[0], 1e-3))


def shoulders_for(seat: np.ndarray, wrists: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """How far a person leans to reach.

    Args:
        seat: ``(3,)`` metres, middle of the shoulders when upright.
        wrists: right and left, ``(3,)`` each.

    Returns:
        both shoulders ``(3,)`` after leaning as far as the wrists need, and the lean ``(3,)``, metres.
    """
    lean = np.zeros(3)
    base = [seat + np.array([s * 0.185, 0.0, 0.0]) for s in (1.0, -1.0)]
    for shoulder, wrist in zip(base, wrists, strict=True):
        way = wrist - shoulder
        far = float(np.linalg.norm(way))
        lean = lean + way / far * max(0.0, far - 0.47)
    lean[2] *= 0.5
    return [b + lean for b in base], lean


def _other_footprints(scene: TabletopScene, placements: list[Placement], but: int) -> list[Footprint]:
    """Footprints of everything on the table but one thing."""
    return [
        footprint_of(t, r) for i, (t, r) in enumerate(zip(scene.things, placements, strict=True)) if i != but
    ] + list(scene.clutter)


def _height_along(footprints: list[Footprint], a: np.ndarray, b: np.ndarray, radius: float) -> float:
    """Height of the tallest thing within ``radius`` of the way from a to b (seen from above)."""
    tallest = 0.0
    for s in footprints:
        way = b[:2] - a[:2]
        u = float(np.clip(((np.array([s.x, s.y]) - a[:2]) @ way) / max(float(way @ way), 1e-9), 0, 1))
        gap = float(np.linalg.norm(a[:2] + u * way - (s.x, s.y)))
        if gap < radius + max(s.half_x, s.half_y):
            tallest = max(tallest, s.height)
    return tallest


def _arms_free(action: Action, story: Story, footprints: list[Footprint]) -> bool:
    """Whether hands and forearms keep out of other things while one is held or fetched."""
    reach, close, lift, carry, lower, release, _ = action.times_s
    moments = [reach, close, lift, (lift + carry) / 2, carry, lower, release]
    for moment in moments:
        pose = story.person(action.start_s + moment)
        for grasp in action.hands:
            rotation, at = pose.wrists[grasp.hand]
            side = 1.0 if grasp.hand == 0 else -1.0
            shoulder = pose.shoulders[grasp.hand]
            lean = np.linalg.norm((pose.shoulders[0] + pose.shoulders[1]) / 2 - story.seat)
            if np.linalg.norm(at - shoulder) > reach_limit() or lean > 0.24:
                return False
            elbow = elbow_of(shoulder, at, side)
            fore = at + (elbow - at) * np.linspace(0, 0.9, 7)[:, None]
            palm = at + rotation[:, 0] * np.linspace(0.02, 0.11, 4)[:, None]
            edge = palm - rotation[:, 1] * 0.03 * side
            if (fore[:, 2] < 0.03).any() or (np.concatenate([palm, edge])[:, 2] < 0.008).any():
                return False
            points = np.concatenate([palm, edge, fore])
            room = np.concatenate([np.full(8, 0.014), np.full(7, 0.032)])
            for s in footprints:
                c, n = np.cos(s.yaw), np.sin(s.yaw)
                local = (points - (s.x, s.y, s.height / 2)) @ np.array([[c, -n, 0], [n, c, 0], [0, 0, 1]])
                if (box_distance(local, np.array([s.half_x, s.half_y, s.height / 2])) < room).any():
                    return False
    return True


def _draw_goal(
    rng: np.random.Generator, scene: TabletopScene, placements: list[Placement], k: int, used: set[int]
) -> tuple[Placement, int | None]:
    """A place on the table or, now and then, in a bowl or on a board; and the index of what it then stands on."""
    thing, table = scene.things[k], scene.table
    if rng.random() < 0.3:
        for j in rng.permutation(len(placements)).tolist():
            other = scene.things[j]
            room = other.hollow[0] if other.hollow else min(other.half_xy) if other.kind in ("board", "book") else 0.0
            odd = other.kind == "bowl" and thing.kind != "fruit"  # a bottle in a bowl looks staged
            if j == k or j in used or odd or max(thing.half_xy) > room or placements[j].z > 0:
                continue
            floor = other.hollow[1] if other.hollow else other.height
            return Placement(placements[j].x, placements[j].y, floor, float(rng.uniform(-np.pi, np.pi))), j
    reach = scene.table.half_y
    yaw = placements[k].yaw + float(rng.normal(0, 0.9))
    return Placement(
        float(rng.uniform(-0.75, 0.75) * table.half_x), float(rng.uniform(-reach + 0.06, reach * 0.45)), 0.0, yaw
    ), None


def _draw_action(
    rng: np.random.Generator,
    scene: TabletopScene,
    placements: list[Placement],
    used: set[int],
    start_s: float,
    seat: np.ndarray,
    homes: tuple[Grasp, Grasp],
) -> tuple[Action, int | None] | None:
    """One candidate and the index of what the thing then stands on; None where it is plainly impossible."""
    k = int(rng.integers(len(placements)))
    if k in used or placements[k].z > 0:
        return None
    thing, source = scene.things[k], placements[k]
    footprints = _other_footprints(scene, placements, k)
    for _ in range(8):
        goal, base = _draw_goal(rng, scene, placements, k, used)
        footprint = footprint_of(thing, goal)
        if base is not None or (
            fits_on_table(footprint, scene.table) and not any(footprints_touch(footprint, s, 0.02) for s in footprints)
        ):
            break
    else:
        return None
    way = np.hypot(goal.x - source.x, goal.y - source.y)
    if way < 0.12:
        return None
    hand = 0 if source.x + goal.x > rng.normal(0, 0.15) else 1
    shoulder = seat + np.array([0.185 * (1 if hand == 0 else -1), 0, 0])
    hold = grasps(thing, source.pose(), hand, shoulder)
    a, b = np.array([source.x, source.y, 0]), np.array([goal.x, goal.y, 0])
    inspect = rng.random() < 0.55
    via = (a + b) / 2 + rng.normal(0, 0.04, 3)
    if inspect:
        via = np.array([0.5 * via[0] + rng.normal(0, 0.05), -scene.table.half_y + rng.uniform(0.08, 0.24), 0])
    others = [
        s for i, s in enumerate(footprints) if base is None or (s.x, s.y) != (placements[base].x, placements[base].y)
    ]
    lift = 0.045 + max(
        _height_along(others, a, via, thing.radius + 0.06),
        _height_along(others, via, b, thing.radius + 0.06),
        0.09 if base is not None else 0.0,
    )
    if lift > 0.23:
        return None
    via[2] = max(lift, rng.uniform(0.1, 0.22)) if inspect else lift
    pace = rng.uniform(0.85, 1.3)
    lengths = np.array([0.9, 0.5, 0.5 + lift, 1.1 + 1.2 * way + (1.3 if inspect else 0.0), 0.5 + lift, 0.5, 0.8]) * pace
    tall = [max(_height_along(footprints, homes[g.hand].wrist[1], x, 0.1) for g in hold) for x in (a, b)]
    clear = (tall[0] + 0.09, tall[1] + 0.09)
    upright = thing.hollow is None and not thing.two_handed
    return Action(
        start_s,
        tuple(np.cumsum(lengths).tolist()),
        k,
        source,
        goal,
        via,
        float(rng.normal(0, 0.5)) if inspect else 0.0,
        float(rng.uniform(-0.5, 0.5)) if inspect and upright else 0.0,
        float(lift),
        tuple(hold),
        clear,
    ), base


def _draw_gaze(
    rng: np.random.Generator, scene: TabletopScene, actions: list[Action], seconds: float, motion: float
) -> list[tuple[float, np.ndarray]]:
    """Draw where the head points: mostly at the hands, now and then at another part of the table or away from it."""
    keys: list[tuple[float, np.ndarray]] = []
    t, head = -1.0, np.array([0.0, -scene.table.half_y - 0.05, 0.55])
    away = [
        np.array([2.2, 0.6, 0.2]),
        np.array([-2.2, 0.6, 0.2]),
        np.array([1.6, 2.0, 0.4]),
        np.array([-1.5, 2.0, 0.3]),
        np.array([1.2, -0.3, -0.6]),
        np.array([-1.2, -0.3, -0.6]),
    ]
    while t < seconds + 2:
        current = next((a for a in actions if a.start_s - 0.5 <= t <= a.end_s), None)
        roll = rng.random()
        if roll < 0.22 * motion:
            target = away[int(rng.integers(len(away)))] + rng.normal(0, 0.2, 3)
            hold = rng.uniform(1.0, 2.6)
        elif current is not None and roll < 0.85:
            target = current.thing_pose(t + 0.5)[1] * (1.25, 1, 0.5) + rng.normal(0, 0.05, 3)
            hold = rng.uniform(0.7, 1.5)
        else:
            target = np.array(
                [rng.uniform(-1.1, 1.1) * scene.table.half_x, rng.uniform(-0.6, 0.5) * scene.table.half_y, 0.0]
            )
            hold = rng.uniform(0.8, 2.0)
        if keys:
            old, new = keys[-1][1] - head, target - head
            angle = np.arccos(np.clip(old @ new / np.linalg.norm(old) / np.linalg.norm(new), -1, 1))
            t += 0.3 + float(angle) / 1.9  # a head turns by about 110 degrees a second
        keys.append((t, target))
        t += hold
        keys.append((t, target + rng.normal(0, 0.012 * motion, 3)))
    return keys


def plan(rng: np.random.Generator, scene: TabletopScene, config: TabletopConfig) -> Story:
    """Fill a take with actions: draw candidates, keep the first that is reachable and free of collisions.

    Args:
        rng: draws everything.
        scene: what stands where at first.
        config: length of the take, motion of the head, time in which it is turned away.

    Raises:
        ConfigError: from no direction does the head camera lose sight of all objects.
    """
    seat = np.array([rng.normal(0, 0.05), -scene.table.half_y - rng.uniform(0.10, 0.16), rng.uniform(0.25, 0.34)])
    homes = []
    for hand, side in ((0, 1.0), (1, -1.0)):
        yaw = side * rng.uniform(0.15, 0.5)
        rotation = rotation_matrix((0, 0, 1), np.pi / 2 + yaw)
        homes.append(relaxed(hand, (rotation, np.array([seat[0] + side * 0.19, -scene.table.half_y + 0.015, 0.03]))))
    both = (homes[0], homes[1])
    sway = np.stack(
        [rng.uniform(0.004, 0.014, 3) * config.motion, rng.uniform(0.6, 1.6, 3), rng.uniform(0, 6.28, 3)], -1
    )
    placements, used = list(scene.placements), set[int]()
    actions: list[Action] = []
    clock = float(rng.uniform(0.2, 1.0))
    idle = [(0.0, np.zeros(3)), (1.0, np.array([0, 0.1, 0]))]
    pause = ((config.seconds - config.away_s) / 2, (config.seconds + config.away_s) / 2)
    while clock < config.seconds - 4.0:
        if config.away_s and pause[0] <= clock < pause[1]:
            clock = pause[1]
            continue
        chosen = None
        for _ in range(60):
            drawn = _draw_action(rng, scene, placements, used, clock, seat, both)
            if drawn is None or (config.away_s and drawn[0].start_s < pause[1] and drawn[0].end_s > pause[0]):
                continue
            trial = Story(scene, [drawn[0]], idle, seat, both, sway)
            if _arms_free(drawn[0], trial, _other_footprints(scene, placements, drawn[0].thing)):
                chosen = drawn
                break
        if chosen is None:
            clock += 1.0
            continue
        action, base = chosen
        actions.append(action)
        placements[action.thing] = replace(action.goal)
        if base is not None:
            used |= {action.thing, base}
        clock = action.end_s + float(rng.uniform(0.0, 0.8))
    gaze = _draw_gaze(rng, scene, actions, config.seconds, config.motion)
    story = Story(scene, actions, gaze, seat, both, sway)
    if config.away_s:
        story.away = _draw_away(rng, story, *pause)
    return story


def _draw_away(rng: np.random.Generator, story: Story, start_s: float, end_s: float) -> Away:
    """Draw where the person looks in a time without actions."""
    heads = np.array([story.person(t).head[1] for t in np.arange(start_s, end_s, 0.25)])
    poses = zip(story.scene.things, story.things(start_s), strict=True)
    points = np.concatenate([thing.mesh.vertices @ pose[0].T + pose[1] for thing, pose in poses])
    away, hidden = draw_away(rng, start_s, end_s, heads, points)
    if not hidden:
        raise ConfigError("no direction hides all objects from the head camera", found=f"away_s={end_s - start_s:g}")
    return away
