"""Draws one video of the demo set and writes its frames as JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from abaw_feats.demo.camera import Camera, take
from abaw_feats.demo.faces import Scene, draw_face
from abaw_feats.demo.identity import Identity
from abaw_feats.demo.nuisance import Disturbed, Nuisance
from abaw_feats.demo.obstacles import draw_obstacles, place_obstacle
from abaw_feats.demo.states import Course


class Video:
    """All random choices for a video that are made before its first frame, the same in every process."""

    def __init__(self, course: Course, nuisance: Nuisance, seed: int):
        self.plan, self.course = course.plan, course
        person = Identity(np.random.default_rng([seed, 4, self.plan.person]), nuisance.resting)
        self.camera = Camera(np.random.default_rng([seed, 5, self.plan.scene]), person.skin)
        self.rng = np.random.default_rng([seed, 2, self.plan.index])  # goes on to the choices of each frame
        self.seen = Disturbed(self.rng, course, nuisance)
        self.obstacles = draw_obstacles(self.rng, int(self.seen.occluded.max()), person.skin)
        self.scene = Scene(person, self.camera.light, self.camera.background)


def render_video(folder: Path, course: Course, nuisance: Nuisance, seed: int) -> int:
    """Draw a video and write its frames to a new folder; returns how many."""
    video = Video(course, nuisance, seed)
    folder.mkdir(parents=True)
    with threadpool_limits(1, user_api="blas"):  # so that sums are rounded alike, whatever the number of threads
        for k, frame in enumerate(course.frames):
            picture = draw_face(video.scene, video.seen.face(k))
            if event := video.seen.occluded[k]:
                place_obstacle(picture, video.obstacles[event - 1], video.camera.light)
            (folder / f"{frame:05d}.jpg").write_bytes(take(picture, video.camera, video.seen, k, video.rng))
    return len(course.frames)
