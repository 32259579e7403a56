"""Joins a recipe to the rooms: prepare, plan, train, tune, evaluate, demo."""
