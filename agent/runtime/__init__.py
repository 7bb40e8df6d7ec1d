"""Running models: one interface over the runtimes, front ends, and the classifier.

* :mod:`agent.runtime.engine`: which runtimes this device has; :mod:`agent.runtime.tensors`: what
  each of them gives.
* :mod:`agent.runtime.front_end`: text to ids.
* :mod:`agent.runtime.classifier`: text to label and confidence.
* :mod:`agent.runtime.model`: a bundle of any task, loaded.
* :mod:`agent.runtime.golden`: the golden self-test.
* :mod:`agent.runtime.acceleration`: whether a GPU or NPU answers alike, and faster.

Not here: where a request comes from, and which bundle serves: it is given a folder and answers.
"""
