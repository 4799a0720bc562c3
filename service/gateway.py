"""One photo from bytes to bytes.

    Upload -> decode -> detect -> align --(FaceJob per face)--> broker ... RestoredFace -> blend -> paste -> encode

The gateway holds no state of any photo: everything a photo needs lives in the call that restores it, so photos cannot
meet. It speaks to workers through the broker alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from service.access.ownership import new_job_id
from service.core import errors, tracing
from service.core.admission import Admission
from service.core.errors import Cancelled, DeadlineExceeded, Draining, QueueFull, ServiceError, TooManyFaces
from service.core.interfaces import Broker, Detector, OnPreview, OnProgress
from service.core.jobs import CLOCKS_DIFFER_S, Charge, PhotoJob
from service.core.manifest import Manifest
from service.core.metrics import Metrics
from service.core.options import OptionLimits, check_options
from service.core.photo_log import PhotoLog, count_failed, photo_log
from service.core.room import Room
from service.core.settings import Settings
from service.core.stopwatch import Stopwatch
from service.core.threads import Threads
from service.core.types import (
    DecodedImage,
    FaceJob,
    Lane,
    Report,
    Restoration,
    RestoredFace,
    RestoreOptions,
    Upload,
)
from service.stages.decode import DecodeLimits, check_header, decode
from service.stages.detect import select_faces
from service.stages.finish import check_result_size, finish
from service.stages.memory import photo_bytes, result_bytes, undecoded_bytes
from service.stages.picks import Found, Pick, pick_faces, report_face, require_a_face
from service.stages.preview import MAX_FACES, placing, preview_every
from service.stages.seen import as_seen, is_seen, seen_faces

_SEEDS = 2**32  # random seeds stay in what every JSON reader keeps exact; callers may use larger ones


@dataclass(frozen=True, slots=True)
class _Plan:
    """The caller's options with every default filled in, and how the photo stands in line.

    Attributes:
        patient: A full lane is waited out instead of refused.
        on_progress: Told whenever a face has moved on, or None.
        on_preview: Shown faces on their way, or None.
    """

    options: RestoreOptions
    job_id: str
    seed: int
    num_steps: int
    fidelity: float
    deadline_s: float
    lane: Lane = Lane.INTERACTIVE
    patient: bool = False
    on_progress: OnProgress | None = None
    on_preview: OnPreview | None = None


def seed_of(chosen: int | None) -> int:
    """The caller's seed, or a random one."""
    return secrets.randbelow(_SEEDS) if chosen is None else chosen


def new_job(  # noqa: PLR0913 - the parts of a job
    upload: Upload,
    options: RestoreOptions,
    lane: Lane,
    *,
    within_s: float,
    owner: str = "",
    webhook_url: str | None = None,
    charge: Charge | None = None,
) -> PhotoJob:
    """A job of its owner's, to be begun within that many seconds from now."""
    return PhotoJob(
        job_id=new_job_id(owner),
        upload=upload,
        options=replace(options, seed=seed_of(options.seed)),
        lane=lane,
        deadline_s=time.time() + within_s,
        webhook_url=webhook_url,
        origin=tracing.here(),
        charge=charge,
        owner=owner,
    )


@dataclass(frozen=True, slots=True)
class Gateway:
    """Restores photos; safe to call from many requests at once.

    Attributes:
        broker: Queue to the workers.
        detector: Finds faces.
        manifest: The bundle's contract.
        settings: The operator's limits.
        metrics: Told about stages, faces and refusals.
        pool: Threads for the stages that only compute.
        admission: Bounds the photos in memory and the line in front of them.
        decode: Makes pixels of a file; called on a thread of the pool.
    """

    broker: Broker
    detector: Detector
    manifest: Manifest
    settings: Settings
    metrics: Metrics
    pool: Threads
    admission: Admission
    decode: Callable[[Upload, DecodeLimits], DecodedImage] = decode
    _pixel_room: Room = field(init=False)
    _result_room: Room = field(init=False)

    def __post_init__(self) -> None:
        """Have room for pixels, and as much for results that are being made."""
        for name in ("_pixel_room", "_result_room"):
            object.__setattr__(self, name, Room(self.settings.photo_bytes))

    @property
    def option_limits(self) -> OptionLimits:
        """Bounds of options that depend on the bundle and the operator."""
        return OptionLimits(self.manifest.max_num_steps, self.settings.max_faces)

    async def restore(
        self,
        upload: Upload,
        options: RestoreOptions,
        on_progress: OnProgress | None = None,
        *,
        job_id: str | None = None,
        until_s: float | None = None,
    ) -> Restoration:
        """Restore the faces of one photo.

        Cancelling the call withdraws the photo's faces from the queue.

        Args:
            upload: The photo's bytes.
            options: The caller's choices.
            on_progress: Told whenever a face has moved on.
            job_id: Id of the photo's job; None makes one.
            until_s: Unix time after which the caller does not wait, or None.

        Returns:
            The encoded result and the report.

        Raises:
            InputError: The photo or an option is at fault.
            QueueFull: There is no room; come back later.
            Draining: The process is shutting down.
            DeadlineExceeded: It took longer than `request_timeout_s`, or than the caller waits.
            InferenceFailed: A network failed.
            DependencyUnavailable: A server this needs does not answer, or the queue has lost the photo's faces.
        """
        try:
            check_options(options, self.option_limits)
            with photo_log(Lane.INTERACTIVE) as log:
                async with self._deadline(until_s) as end_s, self.admission.place():
                    plan = replace(self._plan(options, job_id or new_job_id(), end_s), on_progress=on_progress)
                    restoration = await self._pipeline(upload, plan, log)
        except ServiceError as error:
            was_begun = not isinstance(error, QueueFull | Draining)
            count_failed(self.metrics, error, until_s) if was_begun else self.metrics.rejected(error.code)
            raise
        except asyncio.CancelledError:
            self.metrics.photos("cancelled")
            raise
        except Exception:
            self.metrics.photo_failed(ServiceError.code)
            raise
        self.metrics.photos("succeeded")
        return restoration

    async def work_off(
        self,
        job: PhotoJob,
        on_progress: OnProgress | None,
        on_preview: OnPreview | None = None,
        *,
        until_s: float | None = None,
        log: PhotoLog | None = None,
    ) -> Restoration:
        """Restore the photo of a job that was admitted before: the same, but waiting where `restore` is refused.

        Args:
            job: What is to be done; `deadline_s` is the caller's to check.
            on_progress: Told whenever a face has moved on.
            on_preview: Shown faces on their way, if the job asks for that.
            until_s: Unix time after which nobody waits for the photo, however far it is, or None.
            log: Takes note of the photo for whoever tells its end; None: it is told here.

        Raises:
            InputError: The photo or an option is at fault.
            DeadlineExceeded: It took longer than `request_timeout_s`, counted from its place among the photos, or than
                somebody waits.
            InferenceFailed: A network failed.
            DependencyUnavailable: A server this needs does not answer, or the queue has lost the photo's faces.
        """
        check_options(job.options, self.option_limits)
        with photo_log(job.lane, log) as noted:
            async with self.admission.patient_place(), self._deadline(until_s) as end_s:
                plan = replace(
                    self._plan(job.options, job.job_id, end_s),
                    lane=job.lane,
                    patient=True,
                    on_progress=on_progress,
                    on_preview=on_preview if job.previews else None,
                )
                return await self._pipeline(job.upload, plan, noted)

    async def check(self, upload: Upload, options: RestoreOptions) -> int:
        """Refuse at once what is bound to fail: options out of range, a file that is no photo, what is too large.

        Returns:
            Pixels of the photo.

        Raises:
            InputError: The photo's header or an option is at fault.
        """
        check_options(options, self.option_limits)
        header = await self.pool.run(check_header, upload, DecodeLimits.of(self.settings))
        check_result_size(header.width_px, header.height_px, options, header.format, self.settings.max_output_px)
        return header.width_px * header.height_px

    @contextlib.asynccontextmanager
    async def _deadline(self, until_s: float | None) -> AsyncIterator[float]:
        """Give up the block in time; the value is the Unix time of that."""
        begin_s, timeout_s = time.time(), self.settings.request_timeout_s
        if until_s is not None:
            timeout_s = max(0.0, min(timeout_s, until_s - begin_s))
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                yield begin_s + timeout_s
        except TimeoutError as error:
            if not deadline.expired():
                raise
            errors.forget_trace(error)  # its timer leads to the task, and that to what follows: a ring, with a photo
            raise DeadlineExceeded(f"the photo took longer than {round(timeout_s, 1):g} s") from error

    def _plan(self, options: RestoreOptions, job_id: str, deadline_s: float) -> _Plan:
        bundle = self.manifest
        return _Plan(
            options=options,
            job_id=job_id,
            seed=seed_of(options.seed),
            num_steps=bundle.default_num_steps if options.num_steps is None else options.num_steps,
            fidelity=bundle.default_fidelity if options.fidelity is None else options.fidelity,
            deadline_s=deadline_s,
        )

    async def _pipeline(self, upload: Upload, plan: _Plan, log: PhotoLog) -> Restoration:
        watch, settings = Stopwatch(self.pool, self.metrics), self.settings
        async with self._pixel_room.held(undecoded_bytes(settings.max_image_px, settings.photo_bytes)) as hold:
            image = await watch.compute("decode", self.decode, upload, DecodeLimits.of(settings))
            hold(photo_bytes(image))
            return log.restored(await self._restored(image, plan, watch, log))

    async def _restored(self, image: DecodedImage, plan: _Plan, watch: Stopwatch, log: PhotoLog) -> Restoration:
        options, settings = plan.options, self.settings
        height, width = image.pixels.shape[:2]
        log.note(width_px=width, height_px=height)
        check_result_size(width, height, options, image.source_format, settings.max_output_px)
        picks = await self._pick_faces(image, options, watch)
        require_a_face(picks, options.faces)
        restored = await self._restore_faces(picks, replace(plan, on_progress=log.follow(plan.on_progress)))
        async with self._result_room.held(result_bytes(image, options)):
            finished = await self.pool.run(
                finish, watch, image, picks, restored, plan.fidelity, options, self.manifest.max_coarse_shift
            )
        faces = tuple(report_face(pick, image, finished.blended) for pick in finished.picks)
        for face in faces:
            self.metrics.faces(face.status.value)
            if face.ind_rmse is not None:
                self.metrics.observe_ind_rmse(face.ind_rmse)
        report = Report(
            id=plan.job_id,
            model=f"{self.manifest.name}@{self.manifest.version}",
            width=finished.image.pixels.shape[1],
            height=finished.image.pixels.shape[0],
            seed=plan.seed,
            num_steps=plan.num_steps,
            fidelity=plan.fidelity,
            faces=faces,
            timings_ms=watch.report_ms(face.timings_ms for face in restored),
            output_format=finished.output_format,
        )
        return Restoration(finished.data, report)

    async def _pick_faces(self, image: DecodedImage, options: RestoreOptions, watch: Stopwatch) -> list[Pick]:
        """The faces that can be seen; what alpha hides is shown neither to the detector nor to the networks."""
        shown = image if is_seen(image) else await watch.compute("seen", as_seen, image)
        found = [] if options.aligned else await self._find_faces(shown, options, watch)
        size_px = self.manifest.image_size_px
        return await watch.compute("align", pick_faces, shown, found, size_px, aligned=options.aligned)

    async def _find_faces(self, image: DecodedImage, options: RestoreOptions, watch: Stopwatch) -> Found:
        """Every face of the photo, with the reason why it is left out, if it is.

        Raises:
            TooManyFaces: More faces would be restored than the service restores in one photo.
        """
        with watch.stage("detect"):
            faces = await self.detector.detect(
                image.pixels, det_threshold=options.det_threshold, min_face_px=options.min_face_px
            )
        if image.alpha is not None:
            faces = await self.pool.run(seen_faces, faces, image.alpha)
        height, width = image.pixels.shape[:2]
        found = select_faces(faces, options, (width, height))
        chosen = sum(reason is None for _, reason in found)
        if chosen > self.settings.max_faces:
            raise TooManyFaces(
                f"{chosen} faces would be restored; at most {self.settings.max_faces} are",
                hint="set max_faces to restore the largest ones",
                faces=chosen,
                max_faces=self.settings.max_faces,
            )
        return found

    async def _restore_faces(self, picks: Sequence[Pick], plan: _Plan) -> list[RestoredFace]:
        """Fan out to the workers, wait for all faces; whatever ends the wait early withdraws the job."""
        faces = [pick.aligned for pick in picks if pick.aligned is not None]
        if not faces:
            return []
        every = 0 if plan.on_preview is None else preview_every(plan.num_steps, len(faces))
        on_preview = None if plan.on_preview is None else placing(faces, plan.on_preview)
        with tracing.handing_over("broker", {tracing.FACES: len(faces)}) as origin:
            jobs = [
                FaceJob(
                    job_id=plan.job_id,
                    face_index=face.index,
                    crop=face.crop,
                    num_steps=plan.num_steps,
                    seed=plan.seed,
                    lane=plan.lane,
                    deadline_s=plan.deadline_s,
                    preview_every=every if place < MAX_FACES else 0,
                    tone=face.tone,
                    origin=origin,
                )
                for place, face in enumerate(faces)
            ]
            try:
                try:
                    return await self._results(jobs, plan, on_preview)
                except DeadlineExceeded:
                    if plan.deadline_s - time.time() < CLOCKS_DIFFER_S:
                        raise
                    # They were there already, with the deadline of a gateway that was lost over them: again, with ours.
                    await self.broker.cancel(plan.job_id)
                    return await self._results(jobs, plan, on_preview)
            except BaseException:
                with contextlib.suppress(ServiceError):  # what cannot be withdrawn now ends at its deadline
                    await asyncio.shield(self.broker.cancel(plan.job_id))
                raise

    async def _results(self, jobs: Sequence[FaceJob], plan: _Plan, on_preview: OnPreview | None) -> list[RestoredFace]:
        await self._submit(jobs, patient=plan.patient)
        left_s = plan.deadline_s - time.time()
        try:
            return await self.broker.results(plan.job_id, left_s, plan.on_progress, on_preview)
        except Cancelled as error:  # who withdraws them here does not wait for them
            raise errors.faces_lost() from error

    async def _submit(self, jobs: Sequence[FaceJob], *, patient: bool) -> None:
        while True:
            try:
                return await self.broker.submit(jobs)
            except QueueFull as full:
                if not patient:
                    raise
                await asyncio.sleep(full.extra["retry_after_s"])
