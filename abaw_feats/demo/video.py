"""Draws one video of the demo set and writes its frames as JPEG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from abaw_feats.demo.camera import Camera, draw_camera, encode, take
from abaw_feats.demo.face_state import FaceState
from abaw_feats.demo.faces import Scene, draw_face, set_scene
from abaw_feats.demo.identity import draw_identity
from abaw_feats.demo.nuisance import Disturbed, Nuisance, disturb
from abaw_feats.demo.obstacles import Obstacle, draw_obstacles, place_obstacle
from abaw_feats.demo.plan import VideoPlan
from abaw_feats.demo.states import SlowStates


@dataclass(frozen=True)
class Video:
    """All random choices for a video that are made before its first frame."""

    camera: Camera
    scene: Scene
    seen: Disturbed
    obstacles: list[Obstacle]
    rng: np.random.Generator  # for the choices of each frame


def set_up(plan: VideoPlan, states: SlowStates, nuisance: Nuisance, seed: int) -> Video:
    """Choose person, camera and disturbances of a video, the same in every process."""
    person = draw_identity(np.random.default_rng([seed, 4, plan.person]), nuisance.resting)
    camera = draw_camera(np.random.default_rng([seed, 5, plan.scene]), person.skin)
    rng = np.random.default_rng([seed, 2, plan.index])
    seen = disturb(rng, states, plan.fps, nuisance)
    obstacles = draw_obstacles(rng, int(seen.occluded.max()), person.skin)
    return Video(camera, set_scene(person, camera.light, camera.background), seen, obstacles, rng)


def render_video(folder: Path, plan: VideoPlan, states: SlowStates, nuisance: Nuisance, seed: int) -> int:
    """Draw a video and write its frames to a new folder; returns how many."""
    video = set_up(plan, states, nuisance, seed)
    folder.mkdir(parents=True)
    with threadpool_limits(1, user_api="blas"):  # so that sums are rounded alike, whatever the number of threads
        for k, frame in enumerate(states.frames):
            picture = draw_face(video.scene, face_state(video.seen, k))
            if video.seen.occluded[k]:
                place_obstacle(picture, video.obstacles[video.seen.occluded[k] - 1], video.camera.light)
            image = take(picture, video.camera, video.seen, k, video.rng)
            data = encode(image, video.camera, video.seen, k)
            (folder / f"{frame:05d}.jpg").write_bytes(data)
    return len(states.frames)


def face_state(seen: Disturbed, k: int) -> FaceState:
    """The state of the face in frame k."""
    scalars = {name: float(getattr(seen, name)[k]) for name in ("tilt", "blink", "widen", "corners", "flush")}
    (x, y), (yaw, pitch) = seen.gaze[k].tolist(), seen.turn[k].tolist()
    return FaceState(au=seen.au[k], gaze=(x, y), yaw=yaw, pitch=pitch, **scalars)
