"""What pyproject.toml cannot say: that the wheel has a .pth file, which Python reads when it starts."""

from setuptools import setup
from setuptools.command.build_py import build_py

# For GPUKMEANS_ACCEL=1, see gpukmeans/accel. An editable installation does without.
PTH = "gpukmeans_accel.pth"


class BuildWithPth(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file(PTH, self.build_lib)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), PTH]


setup(cmdclass={"build_py": BuildWithPth})
