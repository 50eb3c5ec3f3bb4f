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
    return write_page(*collect(root), tmp_path_factory.mktemp("report") / "page").as_uri()


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
    WebDriverWait(driver, 30).until(lambda d: d.find_elements(By.CSS_SELECTOR, "th[data-dt-column]"))
    return driver


def texts(elements):
    return [element.text for element in elements]


def test_it_loads_without_errors(page):
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    plots = page.find_elements(By.CSS_SELECTOR, ".chart .plot")
    assert plots and all(plot.find_elements(By.CSS_SELECTOR, ".scatterlayer .trace") for plot in plots)
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
    marker = "return document.querySelector('.chart .plot').data.at(-1)"
    assert page.execute_script(marker)["x"] == [0.75] and page.execute_script(marker)["y"] == [71.0]
    select.send_keys("Weight")
    assert "Joint 70.0 %" in output.text


def test_views_and_lines_can_be_chosen(page):
    chart = page.find_element(By.CSS_SELECTOR, ".chart")
    drawn = "return document.querySelector('.chart .plot').data"
    first = chart.find_element(By.CSS_SELECTOR, ".views input")
    first.send_keys(Keys.ARROW_RIGHT)
    assert page.execute_script(drawn)[0]["y"][0] == 11.0  # task A
    chart.find_element(By.CSS_SELECTOR, ".legend input").send_keys(Keys.SPACE)
    names = [line.get("name") for line in page.execute_script(drawn)]
    assert names == ["AutoFusion, soft", "AutoFusion, hard", None]


def test_a_hidden_line_stays_hidden_in_other_views(page):
    chart = page.find_element(By.CSS_SELECTOR, "#figure-6 .chart")
    drawn = lambda: [line["name"] for line in page.execute_script(  # noqa: E731
        "return arguments[0].data", chart.find_element(By.CSS_SELECTOR, ".plot"))]  # fmt: skip
    box = lambda: chart.find_element(By.CSS_SELECTOR, ".legend [data-name=VGG] input")  # noqa: E731
    joint, task_a = chart.find_elements(By.CSS_SELECTOR, ".views input")
    assert drawn() == ["MLP", "VGG"] and box().is_selected()
    box().send_keys(Keys.SPACE)
    joint.send_keys(Keys.ARROW_RIGHT)
    assert drawn() == ["MLP"] and not chart.find_elements(By.CSS_SELECTOR, ".legend [data-name=VGG]")
    task_a.send_keys(Keys.ARROW_LEFT)
    assert drawn() == ["MLP"] and not box().is_selected()
    box().send_keys(Keys.SPACE)
    assert drawn() == ["MLP", "VGG"] and box().is_selected()


def test_hovering_shows_the_numbers(page):
    plot = page.find_element(By.CSS_SELECTOR, ".chart .plot")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    ActionChains(page).move_to_element(plot).perform()
    hover = WebDriverWait(page, 10).until(lambda d: plot.find_element(By.CSS_SELECTOR, ".hoverlayer .legend"))
    assert "AutoFusion, soft : 50.0 %" in hover.text


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
    button = head.find_element(By.CSS_SELECTOR, "[tabindex='0']")
    for order, expected in (
        ("descending", "Trained on all real labels (reference)"),
        ("ascending", "Weight interpolation"),
    ):
        button.send_keys(Keys.ENTER)
        wait_for(page, lambda: head.get_attribute("aria-sort"), order)
        wait_for(page, lambda: table.find_element(By.CSS_SELECTOR, first).text, expected)
    page.find_element(By.CSS_SELECTOR, "#digits-mlp .filter input").send_keys("zip")
    wait_for(page, lambda: texts(table.find_elements(By.CSS_SELECTOR, "tbody th")), ["ZipIt"])


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
        const within = element => element.closest(".scroll, pre, .contents, .plot svg, .skip, script");
        return [document.documentElement.scrollWidth, ...[...document.body.querySelectorAll("*")]
            .filter(e => !within(e) && e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.outerHTML)]
    """
    assert page.execute_script(wide) == [PHONE]
    assert page.execute_script("return innerWidth") == PHONE


def test_a_dark_scheme_is_followed_at_once(driver, address):
    page = show(driver, address)
    ground = "return getComputedStyle(document.body).backgroundColor"
    line = "return document.querySelector('.chart .js-line').style.stroke"
    light = page.execute_script(ground), page.execute_script(line)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    WebDriverWait(driver, 10).until(lambda d: d.execute_script(line) != light[1])
    assert page.execute_script(ground) == "rgb(20, 24, 28)" != light[0]
