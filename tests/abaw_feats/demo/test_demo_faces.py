import numpy as np
import pytest

from abaw_feats.demo.camera import Camera
from abaw_feats.demo.canvas import pixels
from abaw_feats.demo.identity import FaceState, Identity
from abaw_feats.demo.obstacles import KINDS, Obstacle, place_obstacle
from abaw_feats.demo.video import Scene, draw_face
from abaw_seq.tasks import ACTION_UNITS

# Where a unit may change the picture: (left, right, top, bottom) of half a face, mirrored for the other
# half, in pixels from the centre of the crop.
REGIONS = {
    "AU1": (0, 34, -40, -2), "AU2": (0, 42, -40, -2), "AU4": (0, 34, -30, 4), "AU6": (4, 44, -16, 28),
    "AU7": (4, 34, -16, 8), "AU10": (0, 30, 2, 46), "AU12": (0, 38, 0, 50), "AU15": (0, 34, 10, 50),
    "AU23": (0, 30, 20, 50), "AU24": (0, 30, 18, 56), "AU25": (0, 24, 18, 56), "AU26": (0, 44, 10, 66),
}  # fmt: skip


@pytest.fixture(scope="module", params=(3, 8))
def scene(request) -> Scene:
    rng = np.random.default_rng(request.param)
    person = Identity(rng)
    camera = Camera(rng, person.skin)
    return Scene(person, camera.light, camera.background)


def contract(scene: Scene, **units: float) -> np.ndarray:
    """Brightness (SIDE, SIDE) of a face with these units contracted."""
    au = np.array([units.get(name, 0.0) for name in ACTION_UNITS], np.float32)
    return draw_face(scene, FaceState(au=au)).mean(0)


@pytest.mark.parametrize("unit", ACTION_UNITS)
def test_an_action_unit_changes_its_own_part_of_the_face(scene, unit):
    change = np.abs(contract(scene, **{unit: 1.0}) - contract(scene))
    left, right, top, bottom = REGIONS[unit]
    inside = np.zeros(change.shape, bool)
    inside[pixels(top, bottom), pixels(left, right)] = True
    inside[pixels(top, bottom), pixels(-right, -left)] = True
    assert change[inside].sum() > 0.9 * change.sum()
    assert (change > 0.05).sum() > 60  # pixels of the canvas: plain to see


@pytest.mark.parametrize("unit", ACTION_UNITS)
def test_half_a_contraction_changes_less_than_a_full_one(scene, unit):
    rest = contract(scene)
    half, full = (np.abs(contract(scene, **{unit: level}) - rest).sum() for level in (0.5, 1.0))
    assert 0.15 * full < half < full


def test_units_pull_the_way_they_are_named(scene):
    rest = contract(scene)
    raised, lowered = contract(scene, AU1=1.0, AU2=1.0), contract(scene, AU4=1.0)
    opened = contract(scene, AU25=1.0, AU26=1.0)

    def brow_height(picture: np.ndarray) -> float:
        """Mean height of what is dark above the eyes."""
        strip = np.clip(0.7 * np.median(rest) - picture[pixels(-30, -11), pixels(10, 26)], 0, None).sum(1)
        return float((strip * np.arange(len(strip))).sum() / strip.sum())

    assert brow_height(raised) < brow_height(rest) - 2 < brow_height(lowered) - 2
    mouth = (pixels(30, 40), pixels(-6, 6))
    assert opened[mouth].min() < 0.6 * rest[mouth].mean()


def test_an_eye_closes_and_a_turned_head_moves_the_nose(scene):
    open_, shut = (draw_face(scene, FaceState(blink=blink)) for blink in (0.0, 1.0))
    change = np.abs(open_ - shut).sum(0)
    assert change[pixels(-20, 10)].sum() > 0.99 * change.sum()
    turned = draw_face(scene, FaceState(turn=(5.0, 0.0)))
    assert np.abs(turned - open_)[:, pixels(0, 20), pixels(-12, 12)].mean() > 0.01


def test_a_one_sided_face_changes_on_one_side(scene):
    au = np.zeros(len(ACTION_UNITS), np.float32)
    au[ACTION_UNITS.index("AU6")] = 0.5
    change = np.abs(draw_face(scene, FaceState(au=au, tilt=1.0)) - draw_face(scene, FaceState(au=au, tilt=-1.0)))
    crows_feet = change[:, pixels(-12, 4)]
    assert crows_feet[..., pixels(28, 40)].mean() > 0.01 < crows_feet[..., pixels(-40, -28)].mean()


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_an_obstacle_hides_part_of_the_face(scene, kind):
    face = draw_face(scene, FaceState())
    hidden = face.copy()
    place_obstacle(hidden, Obstacle(kind, 8.0, 25.0, 0.6, np.array((0.2, 0.5, 0.3), np.float32)), scene.light)
    changed = (np.abs(hidden - face).max(0) > 0.02).mean()
    assert 0.01 < changed < 0.5


def test_pictures_stay_within_range(scene):
    for level in (0.0, 1.25):
        picture = draw_face(scene, FaceState(au=np.full(len(ACTION_UNITS), level, np.float32), flush=1.0, widen=2.0))
        assert np.isfinite(picture).all() and picture.min() >= 0 and picture.max() < 1.6
