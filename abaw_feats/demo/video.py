"""Draws one video of the demo set and writes its frames as JPEG files.

Every action unit moves what it moves in the Facial Action Coding System (Ekman and Friesen, 1978): 1, 2 and 4 the
brows, 6 and 7 cheeks and lids, 10 to 26 lips, folds and jaw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from abaw_feats.demo.camera import Camera, take
from abaw_feats.demo.canvas import Canvas, axis
from abaw_feats.demo.eyes import draw_brow, draw_eye, draw_glasses
from abaw_feats.demo.head import FACE_COLUMNS, FACE_ROWS, draw_backdrop, draw_hair_in_front, hair_colour, head_outline
from abaw_feats.demo.identity import FaceState, Identity, Light
from abaw_feats.demo.mouth import MouthShape, draw_mouth
from abaw_feats.demo.nuisance import Disturbed, Nuisance
from abaw_feats.demo.obstacles import draw_obstacles, place_obstacle
from abaw_feats.demo.skin import SIDES, draw_nostrils, draw_wrinkles, shading, skin_colour
from abaw_feats.demo.states import Course


class Scene:
    """A person before a background, (3, SIDE, SIDE) in 0..1; what does not change over a video is drawn already."""

    def __init__(self, person: Identity, light: Light, background: np.ndarray):
        face = (FACE_ROWS, FACE_COLUMNS)
        self.person, self.light = person, light
        self.backdrop = draw_backdrop(person, light, background)  # (3, SIDE, SIDE)
        self.hair = np.ascontiguousarray(hair_colour(person, light)[:, *face])
        self.skin_texture = person.skin_texture[face]
        self.hair_texture = person.hair_texture[face]


def draw_face(scene: Scene, state: FaceState) -> np.ndarray:
    """What the camera sees: float32 (3, SIDE, SIDE), about 0..1."""
    person, light = scene.person, scene.light
    picture = scene.backdrop.copy()
    x, y = axis()[FACE_COLUMNS], axis()[FACE_ROWS]
    face = Canvas(np.empty(0), x, y, *state.turn)
    face.rgb = skin_colour(face, person, state, scene.skin_texture, scene.hair_texture)
    mouth = MouthShape(person, state)
    draw_wrinkles(face, person, state, mouth)
    for side in SIDES:
        draw_eye(face, person, state, side)
        draw_brow(face, person, state, side, scene.hair_texture)
    draw_nostrils(face, person, state)
    draw_mouth(face, person, state, mouth)
    face.rgb *= shading(face, person, state, light)
    if person.glasses is not None:
        draw_glasses(face, person)
    head = Canvas(picture[:, FACE_ROWS, FACE_COLUMNS], x, y, *state.turn)
    head.paint(head.whole(), head_outline(head, person, state), face.rgb)
    draw_hair_in_front(head, person, scene.hair)
    return picture


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


def render_video(faces: Path, course: Course, nuisance: Nuisance, seed: int) -> int:
    """Draw a video and write its frames to a new folder in `faces`; returns how many."""
    video = Video(course, nuisance, seed)
    (faces / course.plan.name).mkdir(parents=True)
    with threadpool_limits(1, user_api="blas"):  # so that sums are rounded alike, whatever the number of threads
        for k, image in enumerate(course.images):
            picture = draw_face(video.scene, video.seen.face(k))
            if event := video.seen.occluded[k]:
                place_obstacle(picture, video.obstacles[event - 1], video.camera.light)
            (faces / image).write_bytes(take(picture, video.camera, video.seen, k, video.rng))
    return len(course.frames)
