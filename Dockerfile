# Three targets: agent (small), fleet (controller), builder (TensorFlow).
#   docker build --target agent -t shoal-agent .
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /src
RUN pip install --no-cache-dir hatchling build
COPY pyproject.toml README.md ./
COPY contracts contracts
COPY agent agent
COPY model_builder model_builder
COPY fleet fleet
COPY firmware_configs firmware_configs
RUN python -m build --wheel --outdir /wheels

FROM python:3.11-slim-bookworm AS base
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/shoal shoal
COPY --from=wheel /wheels /wheels
WORKDIR /var/lib/shoal
ENV PYTHONUNBUFFERED=1

FROM base AS agent
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[json]" && rm -r /wheels
USER shoal
VOLUME /var/lib/shoal
ENTRYPOINT ["shoal-agent"]
CMD ["run", "--config", "/etc/shoal/agent.yaml"]

FROM base AS fleet
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[fleet]" && rm -r /wheels
USER shoal
VOLUME /var/lib/shoal
EXPOSE 8080 8443
ENTRYPOINT ["shoal", "fleet"]
CMD ["serve", "--dir", "/var/lib/shoal/fleet"]

FROM base AS builder
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[builder]" && rm -r /wheels
USER shoal
ENTRYPOINT ["shoal"]
CMD ["--help"]
