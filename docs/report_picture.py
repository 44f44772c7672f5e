"""Draw report_top.png, the top of a report, by Chromium: ``python docs/report_picture.py`` writes it here."""

import subprocess
import tempfile
from pathlib import Path

from fairl_sk import TextFeatures
from fairl_sk.audit import audit

BROWSER = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1.5"]

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(audit(features=TextFeatures(encoder=None, random_state=0)).to_html(), encoding="utf-8")
        picture = Path(__file__).with_name("report_top.png")
        options = [f"--screenshot={picture}", "--window-size=1120,1130", page.as_uri()]
        subprocess.run([*BROWSER, *options], check=True)
