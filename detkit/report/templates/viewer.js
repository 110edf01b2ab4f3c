/**
 * Set up the dialog that shows one picture large, with keys and buttons to the ones beside it.
 * `show(index)` returns { title, words, canvas, shape }, shape being width / height.
 */
function startViewer({ count, isVisible, show }) {
  const dialog = byId("viewer");
  let viewed = null;
  function draw(index) {
    viewed = index;
    const { title, words, canvas, shape: ratio } = show(index);
    const box = byId("viewer-picture");
    // As large as it fits into the window, whatever its shape.
    box.style.width = `min(100%, ${78 * ratio}vh)`;
    box.replaceChildren(canvas);
    byId("viewer-title").textContent = title;
    byId("viewer-words").textContent = words;
  }
  function turn(step) {
    for (let index = viewed + step; index >= 0 && index < count(); index += step) {
      if (isVisible(index)) return draw(index);
    }
  }
  byId("viewer-back").addEventListener("click", () => turn(-1));
  byId("viewer-on").addEventListener("click", () => turn(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  return {
    open(index) {
      draw(index);
      dialog.showModal();
    },
    refresh() {
      if (viewed !== null && dialog.open) draw(viewed);
    },
  };
}
