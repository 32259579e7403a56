"""How well a model does a task: answers asked for and judged, with intervals and what it takes to do it again."""
