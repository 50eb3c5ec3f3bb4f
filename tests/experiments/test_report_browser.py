"""The results page in headless Chromium: it works as a reader uses it, on a wide screen and on a phone."""

import contextlib
import shutil

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.experiments.report_runs import write_all
from webreport.collect import collect
from webreport.page import write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip
PHONE = 400

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = write_all(tmp_path_factory.mktemp("runs"))
    return write_page(*collect(root), tmp_path_factory.mktemp("report") / "page").path.as_uri()


@pytest.fixture
def page(driver, address):
    """The page as a wide, light screen shows it, with its scripts done."""
    return show(driver, address)


def show(driver, address, *, width=1280, scheme="light"):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width <= PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(address)
    WebDriverWait(driver, 30).until(lambda d: d.find_elements(By.CSS_SELECTOR, ".plot svg .line"))
    return driver


def texts(elements):
    return [element.text for element in elements]


def test_it_loads_without_errors(page):
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    plots = page.find_elements(By.CSS_SELECTOR, ".chart .plot")
    assert plots and all(plot.find_elements(By.CSS_SELECTOR, "svg .line path") for plot in plots)
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith(("file:", "data:", "blob:")) for name in loaded)


def test_the_slider_reads_the_chosen_line(page):
    explorer = page.find_element(By.CSS_SELECTOR, ".explorer")
    slider = explorer.find_element(By.CSS_SELECTOR, "input[type=range]")
    output = explorer.find_element(By.TAG_NAME, "output")
    assert output.get_attribute("aria-live") == "polite"
    select = explorer.find_element(By.TAG_NAME, "select")
    assert texts(select.find_elements(By.CSS_SELECTOR, "option:checked")) == ["AutoFusion, hard"]
    assert "Joint 51.0 %" in output.text and "gamma 0.50" in output.text
    slider.send_keys(Keys.ARROW_RIGHT)
    assert "Joint 71.0 %" in output.text and "Task A 72.0 %" in output.text and "gamma 0.75" in output.text
    assert slider.get_attribute("aria-valuetext") == "gamma 0.75"
    select.send_keys("Weight")
    assert "Joint 70.0 %" in output.text


def drawn(chart):
    return [line.get_attribute("data-name") for line in chart.find_elements(By.CSS_SELECTOR, ".plot .line")]


def test_views_and_lines_can_be_chosen(page):
    chart = page.find_element(By.CSS_SELECTOR, ".chart")
    before = chart.find_element(By.CSS_SELECTOR, ".plot .line path").get_attribute("d")
    chart.find_element(By.CSS_SELECTOR, ".views input").send_keys(Keys.ARROW_RIGHT)  # task A
    assert chart.find_element(By.CSS_SELECTOR, ".plot .line path").get_attribute("d") != before
    chart.find_element(By.CSS_SELECTOR, ".legend input").send_keys(Keys.SPACE)
    assert drawn(chart) == ["AutoFusion, soft", "AutoFusion, hard"]


def test_a_hidden_line_stays_hidden_in_other_views(page):
    chart = page.find_element(By.CSS_SELECTOR, "#figure-6 .chart")
    box = lambda: chart.find_element(By.CSS_SELECTOR, ".legend [data-name=VGG] input")  # noqa: E731
    joint, task_a = chart.find_elements(By.CSS_SELECTOR, ".views input")
    assert drawn(chart) == ["MLP", "VGG"] and box().is_selected()
    box().send_keys(Keys.SPACE)
    joint.send_keys(Keys.ARROW_RIGHT)
    assert drawn(chart) == ["MLP"] and not chart.find_elements(By.CSS_SELECTOR, ".legend [data-name=VGG]")
    task_a.send_keys(Keys.ARROW_LEFT)
    assert drawn(chart) == ["MLP"] and not box().is_selected()
    box().send_keys(Keys.SPACE)
    assert drawn(chart) == ["MLP", "VGG"] and box().is_selected()


def test_the_pointer_and_the_arrow_keys_read_the_numbers(page):
    plot = page.find_element(By.CSS_SELECTOR, ".chart .plot")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    ActionChains(page).move_to_element(plot).perform()
    tip = plot.find_element(By.CSS_SELECTOR, ".tip")
    WebDriverWait(page, 10).until(lambda d: tip.is_displayed())
    assert "gamma 0.5" in tip.text and "AutoFusion, soft\n50.0 %" in tip.text
    plot.send_keys(Keys.ARROW_RIGHT)
    assert "gamma 0.75" in tip.text and "AutoFusion, soft\n70.0 %" in tip.text


@pytest.mark.parametrize("clipboard", [True, False])
def test_a_command_is_copied_whole(page, clipboard):
    if not clipboard:
        page.execute_script("navigator.clipboard.writeText = () => Promise.reject()")
    page.execute_script(
        "addEventListener('copy', () => { window.copied = document.activeElement.value; });"
        "const write = navigator.clipboard.writeText.bind(navigator.clipboard);"
        "navigator.clipboard.writeText = text => write(text).then(() => { window.copied = text; });"
    )
    button = page.find_element(By.CSS_SELECTOR, "#digits-mlp .copy")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()
    wait_for(page, lambda: button.text, "Copied")
    command = "python experiments/merge.py --config=digits_mlp --config.pairs=2"
    assert page.execute_script("return window.copied") == command


def wait_for(page, read, expected):
    """The page sorts and filters when it has time; says what was there last if it never comes."""
    with contextlib.suppress(TimeoutException):
        WebDriverWait(page, 10, ignored_exceptions=(StaleElementReferenceException,)).until(
            lambda _: read() == expected
        )
    assert read() == expected


def test_tables_sort_and_filter(page):
    table = page.find_element(By.CSS_SELECTOR, "#digits-mlp table.sortable")
    head = table.find_element(By.XPATH, ".//thead//th[contains(., 'Joint')]")
    first = "tbody tr:first-child th"
    assert table.find_element(By.CSS_SELECTOR, first).text == "Model A"
    button = head.find_element(By.TAG_NAME, "button")
    for order, expected in (
        ("descending", "Trained on all real labels (reference)"),
        ("ascending", "Weight interpolation"),
    ):
        button.send_keys(Keys.ENTER)
        wait_for(page, lambda: head.get_attribute("aria-sort"), order)
        wait_for(page, lambda: table.find_element(By.CSS_SELECTOR, first).text, expected)
    page.find_element(By.CSS_SELECTOR, "#digits-mlp .filter input").send_keys("zip")
    heads = table.find_elements(By.CSS_SELECTOR, "tbody th")
    wait_for(page, lambda: texts(head for head in heads if head.is_displayed()), ["ZipIt"])


def test_pictures_are_browsed_by_layer_and_method(page):
    browser = page.find_element(By.CSS_SELECTOR, "#figure-6 .browser")
    pictures = browser.find_elements(By.CSS_SELECTOR, ".pictures > figure")
    shown = lambda: [p.get_attribute("data-layer") for p in pictures if p.is_displayed()]  # noqa: E731
    assert shown() == ["conv_0", "conv_0"]
    browser.find_element(By.CSS_SELECTOR, "select[data-kind=layer]").send_keys("conv_1")
    assert shown() == ["conv_1", "conv_1"]
    browser.find_element(By.CSS_SELECTOR, "select[data-kind=method]").send_keys("AutoFusion")
    assert shown() == ["conv_1"]
    assert browser.find_element(By.CSS_SELECTOR, "[role=status]").text == "1 of 4 shown"


def test_nothing_overflows_on_a_phone(driver, address):
    page = show(driver, address, width=PHONE)
    wide = """
        const within = element => element.closest(".scroll, pre, .contents, svg, .skip, script");
        return [document.documentElement.scrollWidth, ...[...document.body.querySelectorAll("*")]
            .filter(e => !within(e) && e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.outerHTML)]
    """
    assert page.execute_script(wide) == [PHONE]
    assert page.execute_script("return innerWidth") == PHONE


def test_a_dark_scheme_is_followed_at_once(driver, address):
    page = show(driver, address)
    ground = "return getComputedStyle(document.body).backgroundColor"
    line = "return getComputedStyle(document.querySelector('.plot .line path')).stroke"
    light = page.execute_script(ground), page.execute_script(line)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    WebDriverWait(driver, 10).until(lambda d: d.execute_script(line) != light[1])
    assert page.execute_script(ground) == "rgb(20, 24, 28)" != light[0]
