# The image runs every kinfold command; without arguments it is the projector.

FROM python:3.13-slim@sha256:6771159cd4fa5d9bba1258caf0b82e6b73458c694d178ad97c5e925c2d0e1a91 AS build
RUN python3 -m venv /opt/kinfold
# Dependencies first, with their hashes: this layer changes only when they do.
COPY constraints-service.txt /src/
RUN /opt/kinfold/bin/python -m pip install --no-cache-dir --require-hashes -r /src/constraints-service.txt
COPY . /src/
# The extra's dependencies are there already; --no-deps keeps pip from looking for others than the pinned ones.
RUN /opt/kinfold/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation "/src[service]" \
    && /opt/kinfold/bin/python -m pip check

FROM python:3.13-slim@sha256:6771159cd4fa5d9bba1258caf0b82e6b73458c694d178ad97c5e925c2d0e1a91
RUN useradd --uid 10001 --create-home --home-dir /var/lib/kinfold --shell /usr/sbin/nologin kinfold
COPY --from=build /opt/kinfold /opt/kinfold
ENV PATH=/opt/kinfold/bin:$PATH PYTHONUNBUFFERED=1
USER kinfold
WORKDIR /var/lib/kinfold
# The data dir: a new volume that is mounted here belongs to this user.
RUN mkdir -m 700 .kinfold
# PID 1 gets SIGTERM from Docker itself: exec form, no shell in between.
ENTRYPOINT ["kinfold"]
CMD ["projector"]
