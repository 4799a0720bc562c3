"""A job whose networks are away for longer than a photo may take."""

import asyncio
import logging

from service.composition.ending import Ending
from service.composition.gateway import StandIns, restoring
from service.composition.networks import open_backend
from service.core.jobs import JobState
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.types import Lane, RestoreOptions, Upload
from service.gateway import new_job
from service.stages.decode import decode
from tests.fakes import CutOff, FakeDetector
from tests.pictures import encoded

PAUSE_S = 0.01


async def test_a_job_outlives_it_in_a_process_alone(arithmetic_bundle, caplog):
    caplog.set_level(logging.WARNING, "service")
    settings = Settings(model_repository=arithmetic_bundle, request_timeout_s=0.5)
    networks = CutOff(await open_backend(settings, load_manifest(arithmetic_bundle), Metrics()))
    stand_ins = StandIns(decode, FakeDetector(), networks)
    with Ending(0.0) as ending:
        async with restoring(settings, ending, with_worker=True, stand_ins=stand_ins) as process:
            job = new_job(Upload(encoded()), RestoreOptions(), Lane.BATCH, within_s=3600)
            await process.jobs.admit(job)
            status = await process.jobs.status(job.job_id)
            while not status.state.final and "a photo is handed back" not in caplog.text:
                await asyncio.sleep(PAUSE_S)
                status = await process.jobs.status(job.job_id)
            networks.away = False
            while not status.state.final:
                await asyncio.sleep(PAUSE_S)
                status = await process.jobs.status(job.job_id)
    assert (status.state, status.failure) == (JobState.SUCCEEDED, None)
