"""Programs that start training elsewhere or several times: torchrun here, Slurm, SkyPilot, Ray Train."""
