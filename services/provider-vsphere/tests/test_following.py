"""Everybody who follows a task hears all of it."""

from __future__ import annotations

from provider_vsphere.session.following import LOST, Following

END = {"info.state": "success", "info.result": None}


def test_everybody_who_waits_for_a_task_hears_of_its_end():
    """Who settles a doubt must not take the news from who began the task."""
    following = Following()
    with following.followed("task-x") as one, following.followed("task-x") as other:
        following.tell("task-x", END)
        with following.followed("task-x") as late:
            assert one.get_nowait() == other.get_nowait() == late.get_nowait() == END


def test_what_is_told_before_anybody_listens_is_kept():
    following = Following()
    following.begin("task-x")
    following.tell("task-x", END)
    with following.followed("task-x") as updates:
        assert updates.get_nowait() == END


def test_the_end_of_the_session_is_told_once():
    following = Following()
    with following.followed("task-x") as updates:
        following.lose()
        assert updates.get_nowait() == LOST
    with following.followed("task-x") as updates:
        assert updates.empty()
