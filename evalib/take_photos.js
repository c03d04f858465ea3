// Two photographs by the browser's camera. Runs in the frame of a Colab cell's output.
// Time to walk into the picture, and out of it, is 5 s.
(async () => {
  const box = document.body.appendChild(document.createElement("div"));
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 1280}}});
    const video = box.appendChild(document.createElement("video"));
    const button = box.appendChild(document.createElement("button"));
    video.srcObject = stream;
    video.style = "display: block; width: 480px; margin-bottom: 8px";
    await video.play();
    google.colab.output.setIframeHeight(document.documentElement.scrollHeight, true);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const photos = [];
    for (const what of ["the empty scene", "the scene with something new"]) {
      button.textContent = `Photograph ${what} in 5 seconds`;
      await new Promise((pressed) => (button.onclick = pressed));
      for (let s = 5; s > 0; s--) {
        button.textContent = `${what}: ${s}`;
        await new Promise((passed) => setTimeout(passed, 1000));
      }
      canvas.getContext("2d").drawImage(video, 0, 0);
      photos.push(canvas.toDataURL("image/jpeg", 0.92));
    }
    return {photos};
  } catch (error) {
    return {error: `${error.name}: ${error.message}`};
  } finally {
    if (stream) stream.getTracks().forEach((track) => track.stop());
    box.remove();
  }
})()
