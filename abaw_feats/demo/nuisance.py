"""What changes from frame to frame and says nothing about the labels: the reason why one frame is not enough.

Small movements, speech, blinks and brief grimaces disturb the slow state; the head turns; the camera shakes, blurs
and flickers; a hand or an object hides a part of the face. Neighbouring frames show the same state, disturbed in
other ways.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from abaw_feats.demo.identity import FaceState
from abaw_feats.demo.prototypes import au_probabilities
from abaw_feats.demo.states import Course, autoregressive
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS


@dataclass(frozen=True)
class Nuisance:
    """How strong each disturbance is; zero everywhere gives undisturbed frames.

    Deviations of intensities are of action units (1 is a full contraction), lengths are in pixels of the crop, and
    brightness is 1 for white.
    """

    memory: float = 0.07  # seconds that a fast disturbance lasts
    resting: float = 0.6  # how far faces at rest depart from the average face
    spoiled: float = 0.55  # share of frames that show almost nothing: dark, glare, defocus, motion, compression
    lapse: float = 0.10  # share of frames in which the whole expression has relaxed for a moment
    drop: float = 0.05  # share of frames in which a single action unit has relaxed
    jitter: float = 0.08  # deviation of each action unit's intensity
    grimace: float = 0.05  # share of frames with another expression over the true one for a moment
    talk: float = 0.20  # deviation of mouth and jaw while a person speaks
    blink: float = 0.08  # share of frames with closed or closing eyes
    occlusion: float = 0.08  # share of frames in which something hides a part of the face
    turn: float = 2.2  # deviation of the nose's position as the head turns
    shift: float = 1.0  # deviation of the crop's position
    roll: float = 2.5  # deviation of the rotation in the image, degrees
    zoom: float = 0.03  # relative deviation of the scale
    flicker: float = 0.10  # relative deviation of the exposure
    noise: float = 0.014  # deviation of the sensor noise
    mood: float = 1.0  # how far mouth and eyes hint at valence and arousal beyond the action units


class Disturbed:
    """What the N frames of one video show once fast disturbances are added to its slow states.

    Of the face: au (N, 12), tilt, blink, widen, corners and flush (N,), gaze and turn (N, 2), as in `FaceState`. Of the
    picture: shift (N, 2) in pixels; roll (N,) in radians; zoom (N,) and gain (N, 3) around 1; blur (N, 2), the radius
    across and down in pixels; noise (N,) of brightness; quality (N,) of the JPEG, relative to the camera's; occluded
    int (N,), 0 if the whole face is visible, else the number of the occlusion.
    """

    def __init__(self, rng: np.random.Generator, course: Course, nuisance: Nuisance):
        fast = _Fast(rng, course.frames / course.plan.fps, nuisance.memory)
        count = len(course.frames)
        tired = fast.events(nuisance.blink, 0.1) > 0
        lively = (0.5 + course.arousal.clip(0, 1))[:, None]
        held = _held(fast, nuisance.lapse)
        hint, jitter = nuisance.mood * held, nuisance.jitter
        self.au = _apparent_units(course, fast, held, nuisance)
        self.tilt = np.clip(course.tilt + 0.10 * fast.noise(), -1, 1)
        self.blink = np.where(tired, rng.uniform(0.5, 1.0, count), 0.0)
        self.widen = hint * 1.6 * (course.arousal - 0.45) + 2 * jitter * fast.noise()
        self.corners = hint * 4.0 * course.mood + 4 * jitter * fast.noise()
        self.flush = np.clip(0.2 + hint * 0.6 * (course.arousal - 0.3) + 2 * jitter * fast.noise(), 0, 1)
        self.gaze = np.clip(1.3 * fast.noise(2), -2.4, 2.4)
        self.turn = np.clip(nuisance.turn * (0.5 * rng.standard_normal(2) + 0.8 * lively * fast.noise(2)), -9, 9)
        self.shift = np.clip(nuisance.shift * fast.noise(2), -5, 5)
        self.roll = np.deg2rad(np.clip(nuisance.roll * fast.noise(), -9, 9))
        self.zoom = np.exp(np.clip(nuisance.zoom * fast.noise(), -0.06, 0.12))
        self.occluded = fast.events(nuisance.occlusion, 0.25)

        # Exposure, blur, noise and compression: small changes everywhere, and events that spoil frames.
        events = fast.events(nuisance.spoiled, 0.1)
        total = events.max() + 1
        kind = np.where(events > 0, rng.integers(5, size=total)[events], -1)
        dark, glare, defocus, motion, glitch = (kind == k for k in range(5))
        level, tint = rng.random(total)[events], rng.standard_normal((total, 3))[events]
        gain = np.exp(nuisance.flicker * fast.noise()).clip(0.6, 1.5)
        gain = np.select([dark, glare], [0.02 + 0.04 * level, 6.0 + 4.0 * level], gain)
        blur = np.where(defocus, 8.0 + 4.0 * level, 0.0)[:, None] * np.ones(2)
        upright = (rng.random(total)[events] < 0.4)[:, None] == np.array((False, True))
        self.blur = np.where(motion[:, None], np.where(upright, 14.0 + 5.0 * level[:, None], 2.0), blur)
        self.gain = gain[:, None] * np.exp(np.where(events > 0, 0.16, 0.03)[:, None] * tint)
        self.noise = np.where(dark, 0.05, nuisance.noise) * rng.uniform(0.6, 1.2, count)
        self.quality = np.where(glitch, 0.01 + 0.01 * level, 1.0)

    def face(self, k: int) -> FaceState:
        """What the face does in frame k."""
        return FaceState(**{field.name: getattr(self, field.name)[k].tolist() for field in fields(FaceState)})


def _held(fast: _Fast, share: float, *width: int) -> np.ndarray:
    """Factor of an intensity, 0..1.2: about 1, but near 0 in `share` of the frames."""
    rng, shape = fast.rng, (len(fast.keep), *width)
    normal = 1 / (1 + np.exp(-1.702 * fast.noise(*width)))  # the normal distribution function, to within 0.01
    return np.where(normal < share, rng.uniform(0.0, 0.25, shape), rng.uniform(0.85, 1.15, shape))


def _apparent_units(course: Course, fast: _Fast, held: np.ndarray, nuisance: Nuisance) -> np.ndarray:
    """The intensities that the frames show (N, 12), in 0..1.25."""
    rng, count = fast.rng, len(course.frames)
    au = course.au * held[:, None] * _held(fast, nuisance.drop, len(ACTION_UNITS))
    events = fast.events(nuisance.grimace, 0.12)
    other = rng.integers(len(EXPRESSIONS), size=events.max() + 1)[events]
    grimace = (rng.random((count, len(ACTION_UNITS))) < au_probabilities()[other]) * rng.uniform(0.6, 1.0, (count, 1))
    weight = np.where(events > 0, rng.uniform(0.5, 0.95, count), 0.0)[:, None]
    au = (1 - weight) * au + weight * grimace
    au = au + nuisance.jitter * fast.noise(len(ACTION_UNITS))
    turns = 1 + np.cumsum(rng.random(count) < 1 / 30)
    speaking = nuisance.talk * ((turns + rng.integers(2)) % 2)  # 0 in the frames in which the person is silent
    for name, strength in (("AU25", 1.0), ("AU26", 0.8), ("AU10", 0.5), ("AU12", 0.4), ("AU23", 0.4), ("AU24", 0.3)):
        au[:, ACTION_UNITS.index(name)] += strength * speaking * fast.noise()
    return np.clip(au, 0, 1.25).astype(np.float32)


class _Fast:
    """Draws random courses that are correlated over `memory` seconds."""

    def __init__(self, rng: np.random.Generator, seconds: np.ndarray, memory: float):
        self.rng = rng
        self.steps = np.diff(seconds, prepend=seconds[0] - 1e3)
        self.keep = np.exp(-self.steps / memory)

    def noise(self, *width: int) -> np.ndarray:
        """Noise of unit variance (N,) or (N, width)."""
        return autoregressive(self.rng, self.keep, *width)

    def events(self, share: float, length: float) -> np.ndarray:
        """Number of the event that each frame belongs to (N,), 0 for none; `share` of the frames belong to one.

        Events last `length` seconds on average, so that most end before the next frame of the release.
        """
        number = np.zeros(len(self.keep), int)
        held = np.exp(-self.steps / length)
        draws, count = self.rng.random((len(number), 2)), 0
        for k in range(len(number)):
            if k and draws[k, 0] < held[k]:
                number[k] = number[k - 1]
            elif draws[k, 1] < share:
                count += 1
                number[k] = count
        return number
